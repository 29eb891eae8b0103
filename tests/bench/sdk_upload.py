"""Sends one file with the upload helper of Dropbox's Python SDK (PyPI `dropbox`).

usage: sdk_upload.py FILE PATH PARALLEL_UPLOADS APP_KEY APP_SECRET REFRESH_TOKEN
"""

import os
import sys

import dropbox
from dropbox import files
from dropbox.file_transfer import FileUpload, Uploader, UploadOptions

file, path, parallel, app_key, app_secret, refresh_token = sys.argv[1:]
client = dropbox.Dropbox(
    oauth2_refresh_token=refresh_token,
    app_key=app_key,
    app_secret=app_secret,
    # The SDK brings certificates of its own and looks at no variable for others.
    ca_certs=os.environ["REQUESTS_CA_BUNDLE"],
)
result = Uploader(client).upload(
    FileUpload(file), files.CommitInfo(path), UploadOptions(parallel_uploads=int(parallel))
)
assert result.metadata.size == os.path.getsize(file)
