"""As `manage.py makemigrations` writes it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """The first."""

    operations = [
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("item", models.TextField(unique=True)),
                ("tags", models.JSONField(default=list)),
            ],
        )
    ]
