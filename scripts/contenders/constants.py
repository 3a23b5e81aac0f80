"""The numbers of the transforms, without torch."""

MEAN = [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
STD = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25]
FEATURES = [f"f{i}" for i in range(8)]  # the columns that have them

CHANNEL_MEAN = [0.485, 0.456, 0.406]
CHANNEL_STD = [0.229, 0.224, 0.225]
