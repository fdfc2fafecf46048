"""Production's settings; where tests find their database, `servers.py` says."""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "of no worth")
INSTALLED_APPS = ["shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ.get("DB_HOST", "db.example.com"),
        "NAME": "shop",
        "USER": "shop",
    }
}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEST_RUNNER = "shop.servers.Runner"
