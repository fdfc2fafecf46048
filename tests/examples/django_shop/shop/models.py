"""What the shop keeps."""

from django.db import models


class Order(models.Model):
    """Somebody wants something."""

    item = models.TextField(unique=True)
    tags = models.JSONField(default=list)
