"""Django's own tests in the cluster's one database. The second alias that some of them want is the same."""

import os

DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "postgres",
    "USER": os.environ["PGUSER"],
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "TEST": {"NAME": "postgres"},
}
DATABASES = {"default": DATABASE, "other": {**DATABASE, "TEST": {"MIRROR": "default"}}}
SECRET_KEY = "of tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
