"""Annotated data sets as files: COCO, VOC, YOLO and ImageFolder, all read into one model (`annotated.py`)."""
