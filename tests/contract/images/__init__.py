"""The test images keep the contracts of the official images: see ci/images/README.md."""
