"""The local web page beside the microscope: live view, slide, health, model, metrics."""
