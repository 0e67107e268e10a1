"""Config files: reads and writes HOCON, JSON and YAML, and replaces placeholders."""

SERVER_FILE = "config_fed_server"
CLIENT_FILE = "config_fed_client"
TEMPLATE_FILE = "info.conf"  # of a template, not of a job
