"""The plain values and functions under every other room: batches, schemas, time, names, keys, change sets."""
