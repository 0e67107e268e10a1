"""Config files: HOCON, JSON and YAML read into plain values, their placeholders replaced, and written again."""
