"""Config files: HOCON, JSON and YAML read into plain values, their placeholders replaced, and written again."""

SERVER_FILE = "config_fed_server"
CLIENT_FILE = "config_fed_client"
