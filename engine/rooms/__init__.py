"""The embedded dataset: procedural rooms, rendered."""
