"""From images to a zoo: architectures, image data sets, training engines."""
