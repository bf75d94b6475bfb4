"""Files on disk: listed, checked, decoded, and kept decoded."""
