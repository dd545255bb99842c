"""The wire between devices and cloud: topics, MQTT messages, HTTP schemas. Standard library and pydantic only."""
