"""Ready-made pipelines, one module each, that know only the engine's public names; and their data."""
