"""What devices report over MQTT: committed first, acknowledged after."""
