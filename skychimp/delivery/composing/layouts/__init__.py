"""Put the content of a message into a layout, and make emails of it that mail programs show well."""
