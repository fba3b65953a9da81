"""Ready-made pipelines, one module each, that know only the engine's public names; and the data they run on."""
