"""The README's launcher, with what a test varies taken from the environment."""

import os
import sys
import urllib.request

from nuitkal_update import ClientUpdater, UpdaterConfig, own_folder

VERSION = "launcher version 1"  # a test makes the next version by changing this digit in the binary

config = UpdaterConfig(
    check_api_url=os.environ["TEST_URL"],
    client_dir=own_folder() / os.environ.get("TEST_DIR", "app"),
    main_script=os.environ.get("TEST_MAIN", "main.py"),
    retries=0,
    lock_seconds=2.0,
)
verb = os.environ.get("TEST_VERB", "run")
if verb == "version":
    print(VERSION)
    sys.exit(0)
if verb == "request":  # what urllib alone costs
    urllib.request.urlopen(config.check_api_url).read()
    sys.exit(0)
with ClientUpdater(config) as updater:
    if verb == "update":
        updater.update()
        sys.exit(0)
    sys.exit(updater.update_and_run())
