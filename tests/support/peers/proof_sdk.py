"""Drives the stand-in with the official Dropbox SDK (PyPI `dropbox`), which was not written by us.

usage: proof_sdk.py PROXY CA_FILE account|secrets

`account`: a stand-in with 100 MiB. `secrets`: one whose app has the secret `s3cret`, and whose access
tokens live for a second.
"""

import datetime
import os
import random
import sys
import time

PROXY, CA_FILE, PART = sys.argv[1:]
# Read by `requests` at every call: the SDK needs no other change to come here.
os.environ["HTTPS_PROXY"] = PROXY
os.environ["REQUESTS_CA_BUNDLE"] = CA_FILE

KEY, REFRESH = "standin-app-key", "standin-refresh-token"
MIB = 1 << 20

import dropbox  # noqa: E402
import requests  # noqa: E402
from dropbox import files  # noqa: E402
from dropbox.content_hash import content_hash  # noqa: E402
from dropbox.file_transfer import Bytes, BytesUpload, Downloader, DownloadOptions, Uploader, UploadOptions  # noqa: E402


def client(**arguments):
    arguments = {"oauth2_refresh_token": REFRESH, "app_key": KEY, **arguments}
    return dropbox.Dropbox(
        ca_certs=CA_FILE, max_retries_on_error=0, **arguments
    )


def refused(kind, call, *arguments, **named):
    """The error a call ends with, which has to be of this kind."""
    try:
        call(*arguments, **named)
    except kind as error:
        return error
    raise AssertionError(f"{call.__name__} was not refused")


def data(size, seed=1):
    return random.Random(seed).randbytes(size)


def plain_files(dbx):
    meta = dbx.files_upload(b"abc", "/Folder/Small.txt")
    assert meta.content_hash == "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358"
    assert meta.path_lower == "/folder/small.txt" and meta.name == "Small.txt"
    again = dbx.files_upload(b"abc", "/folder/small.TXT")
    assert again.rev == meta.rev, "the same content is no conflict"
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload, b"other", "/folder/small.txt")
    assert error.error.get_path().reason.get_conflict().is_file()
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload, b"x", "/Folder")
    assert error.error.get_path().reason.get_conflict().is_folder()
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload, b"x", "/folder/small.txt/below")
    assert error.error.get_path().reason.get_conflict().is_file_ancestor()
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload, b"x", "/a", content_hash="0" * 64)
    assert error.error.is_content_hash_mismatch()
    for name, tag in (("/a//b", "malformed_path"), ("/desktop.ini", "disallowed_name")):
        error = refused(dropbox.exceptions.ApiError, dbx.files_upload, b"x", name)
        assert error.error.get_path().reason._tag == tag
    renamed = dbx.files_upload(b"other", "/Folder/Small.txt", autorename=True)
    assert renamed.name == "Small (1).txt"
    newer = dbx.files_upload(b"newer", "/Folder/Small.txt", mode=files.WriteMode.update(meta.rev))
    assert newer.id == meta.id and newer.rev != meta.rev
    refused(dropbox.exceptions.ApiError, dbx.files_upload, b"x", "/Folder/Small.txt",
            mode=files.WriteMode.update(meta.rev))
    umlaut = dbx.files_upload(b"u", "/Folder/Gr\u00fc\u00dfe \U0001f600.txt")
    assert dbx.files_get_metadata("/folder/gr\u00fc\u00dfe \U0001f600.txt").id == umlaut.id

    assert isinstance(dbx.files_get_metadata("/folder"), files.FolderMetadata)
    assert dbx.files_get_metadata(newer.id).name == "Small.txt"
    error = refused(dropbox.exceptions.ApiError, dbx.files_get_metadata, "/nothing")
    assert error.error.get_path().is_not_found()
    _, response = dbx.files_download("/folder/small.txt")
    assert response.content == b"newer"
    found, response = dbx.files_download("rev:" + newer.rev)
    assert found.rev == newer.rev and response.content == b"newer"
    error = refused(dropbox.exceptions.ApiError, dbx.files_download, "/folder")
    assert error.error.get_path().is_not_file()

    moved = dbx.files_move_v2("/Folder/Small.txt", "/Elsewhere/Moved.txt").metadata
    assert moved.id == newer.id and moved.path_display == "/Elsewhere/Moved.txt"
    dbx.files_create_folder_v2("/Empty/Deep")
    error = refused(dropbox.exceptions.ApiError, dbx.files_create_folder_v2, "/empty/deep")
    assert error.error.get_path().get_conflict().is_folder()
    error = refused(dropbox.exceptions.ApiError, dbx.files_delete_v2, moved.path_lower, parent_rev="123456789")
    assert error.error.get_path_write().get_conflict().is_file()
    assert dbx.files_delete_v2(moved.path_lower, parent_rev=newer.rev).metadata.id == newer.id
    assert isinstance(dbx.files_delete_v2("/Folder").metadata, files.FolderMetadata)
    error = refused(dropbox.exceptions.ApiError, dbx.files_delete_v2, "/Folder")
    assert error.error.get_path_lookup().is_not_found()


def listing(dbx):
    for number in range(25):
        dbx.files_upload(b"%d" % number, f"/list/{number % 2}/{number}.txt")
    page = dbx.files_list_folder("", recursive=True, limit=7)
    names = [entry.name for entry in page.entries]
    while page.has_more:
        assert len(page.entries) <= 7
        page = dbx.files_list_folder_continue(page.cursor)
        names += [entry.name for entry in page.entries]
    assert sum(name.endswith(".txt") for name in names) == 25
    dbx.files_delete_v2("/list/0/0.txt")
    dbx.files_upload(b"new", "/list/new.txt")
    page = dbx.files_list_folder_continue(page.cursor)
    changes = {entry.name: type(entry) for entry in page.entries}
    assert changes == {"0.txt": files.DeletedMetadata, "new.txt": files.FileMetadata}, changes
    assert {entry.name for entry in dbx.files_list_folder("/list").entries} == {"0", "1", "new.txt"}
    error = refused(dropbox.exceptions.ApiError, dbx.files_list_folder, "/list/new.txt")
    assert error.error.get_path().is_not_folder()
    refused(dropbox.exceptions.BadInputError, dbx.files_list_folder_continue, "nonsense")
    dbx.files_delete_v2("/list")


def sequential(dbx):
    whole = data(9 * MIB + 5)
    start = dbx.files_upload_session_start(whole[:1000], content_hash=content_hash(whole[:1000]))
    cursor = files.UploadSessionCursor(start.session_id, 1000)
    dbx.files_upload_session_append_v2(whole[1000 : 5 * MIB], cursor)
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_append_v2, b"x", cursor)
    assert error.error.get_incorrect_offset().correct_offset == 5 * MIB
    cursor.offset = 5 * MIB
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_append_v2, b"x", cursor,
                    content_hash="0" * 64)
    assert error.error.is_content_hash_mismatch()
    dbx.files_upload_session_append_v2(whole[5 * MIB : 6 * MIB], cursor)
    cursor.offset = 6 * MIB
    commit = files.CommitInfo("/big", client_modified=datetime.datetime(2024, 1, 2, 3, 4, 5))
    meta = dbx.files_upload_session_finish(whole[6 * MIB :], cursor, commit)
    assert (meta.size, meta.content_hash) == (len(whole), content_hash(whole))
    assert meta.client_modified.isoformat() == "2024-01-02T03:04:05"
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_finish, b"", cursor, commit)
    assert error.error.get_lookup_failed().is_not_found()
    assert dbx.files_download("/big")[1].content == whole
    parallel = Bytes()
    Downloader(dbx).download("/big", parallel, DownloadOptions(parallel_downloads=4))
    assert parallel.bytes() == whole, "ranges"
    closed = dbx.files_upload_session_start(b"x", close=True)
    cursor = files.UploadSessionCursor(closed.session_id, 1)
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_append_v2, b"x", cursor)
    assert error.error.is_closed()
    result = Uploader(dbx).upload(BytesUpload(whole), files.CommitInfo("/helper"))
    assert result.metadata.content_hash == content_hash(whole)
    empty = Uploader(dbx).upload(BytesUpload(b""), files.CommitInfo("/empty file"))
    assert empty.metadata.content_hash == content_hash(b"")


def concurrent(dbx):
    kind = files.UploadSessionType.concurrent
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_start, b"x", session_type=kind)
    assert error.error.is_concurrent_session_data_not_allowed()
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_start, b"", close=True, session_type=kind)
    assert error.error.is_concurrent_session_close_not_allowed()

    whole = data(50 * MIB + 77)
    result = Uploader(dbx).upload(
        BytesUpload(whole), files.CommitInfo("/parallel"), UploadOptions(parallel_uploads=4)
    )
    assert result.metadata.content_hash == content_hash(whole)
    assert dbx.files_download("/parallel")[1].content == whole

    session = dbx.files_upload_session_start(b"", session_type=kind).session_id
    at = lambda offset: files.UploadSessionCursor(session, offset)  # noqa: E731
    append = dbx.files_upload_session_append_v2
    block = data(4 * MIB)
    append(block, at(4 * MIB))
    append(block, at(4 * MIB))
    error = refused(dropbox.exceptions.BadInputError, append, data(4 * MIB, 2), at(4 * MIB))
    assert "Different data already uploaded at offset 4194304" in str(error)
    error = refused(dropbox.exceptions.ApiError, append, block, at(5))
    assert error.error.is_concurrent_session_invalid_offset()
    error = refused(dropbox.exceptions.ApiError, append, block[:5], at(0))
    assert error.error.is_concurrent_session_invalid_data_size()
    finish = dbx.files_upload_session_finish
    error = refused(dropbox.exceptions.ApiError, finish, b"", at(8 * MIB), files.CommitInfo("/c"))
    assert error.error.is_concurrent_session_not_closed()
    append(b"end", at(8 * MIB), close=True)
    error = refused(dropbox.exceptions.ApiError, append, block, at(0))
    assert error.error.is_closed()
    error = refused(dropbox.exceptions.ApiError, finish, b"", at(8 * MIB + 3), files.CommitInfo("/c"))
    assert error.error.is_concurrent_session_missing_data()
    error = refused(dropbox.exceptions.ApiError, finish, b"x", at(8 * MIB + 3), files.CommitInfo("/c"))
    assert error.error.is_concurrent_session_data_not_allowed()

    sessions = dbx.files_upload_session_start_batch(2).session_ids
    dbx.files_upload_session_append_v2(b"one", files.UploadSessionCursor(sessions[0], 0), close=True)
    dbx.files_upload_session_append_v2(b"two", files.UploadSessionCursor(sessions[1], 0))
    entries = dbx.files_upload_session_finish_batch_v2([
        files.UploadSessionFinishArg(files.UploadSessionCursor(session, 3), files.CommitInfo(f"/batch/{number}"))
        for number, session in enumerate(sessions)
    ]).entries
    assert entries[0].get_success().size == 3
    assert entries[1].get_failure().get_lookup_failed().is_not_closed()


def account_and_tokens():
    dbx = client()
    usage = dbx.users_get_space_usage()
    assert usage.allocation.get_individual().allocated == 100 * MIB and usage.used > 0
    assert dbx.users_get_current_account().name.display_name == "Stand In"
    session = dbx.files_upload_session_start(data(60 * MIB), close=True).session_id
    cursor = files.UploadSessionCursor(session, 60 * MIB)
    error = refused(dropbox.exceptions.ApiError, dbx.files_upload_session_finish, b"", cursor,
                    files.CommitInfo("/too big"))
    assert error.error.get_path().is_insufficient_space()
    dbx.files_delete_v2("/parallel")
    assert dbx.files_upload_session_finish(b"", cursor, files.CommitInfo("/too big")).size == 60 * MIB

    error = refused(dropbox.exceptions.AuthError, client(oauth2_refresh_token="wrong").users_get_space_usage)
    assert error.error.is_invalid_access_token()
    unknown = dropbox.Dropbox(oauth2_access_token="unknown", ca_certs=CA_FILE)
    error = refused(dropbox.exceptions.AuthError, unknown.users_get_space_usage)
    assert error.error.is_invalid_access_token()

    flow = dropbox.DropboxOAuth2FlowNoRedirect(
        KEY, use_pkce=True, token_access_type="offline", ca_certs=CA_FILE
    )
    code = requests.get(flow.start(), timeout=10).text
    granted = flow.finish(code)
    assert client(oauth2_refresh_token=granted.refresh_token).users_get_space_usage()
    assert granted.scope.split() == [
        "account_info.read", "files.metadata.read", "files.content.read", "files.content.write"
    ]
    refused(requests.HTTPError, flow.finish, code)
    log_in_in_part(flow)

    token = {"Authorization": "Bearer " + granted.access_token}
    api, content = "https://api.dropboxapi.com/2/", "https://content.dropboxapi.com/2/"
    post = lambda url, **named: requests.post(url, timeout=10, **named)  # noqa: E731
    assert post(api + "users/get_space_usage", headers=token).status_code == 200
    assert "expected null" in post(api + "users/get_space_usage", headers=token, json={}).text
    assert "wrong host" in post(content + "users/get_space_usage", headers=token).text
    assert "unknown field" in post(api + "files/get_metadata", headers=token, json={"path": "/x", "y": 1}).text
    assert "Content-Type" in post(api + "files/get_metadata", headers=token, data={"path": "/x"}).text
    latin = {**token, "Dropbox-API-Arg": b'{"path": "/\xfc"}', "Content-Type": "application/octet-stream"}
    assert post(content + "files/upload", headers=latin, data=b"x").status_code == 400
    chunked = {**token, "Dropbox-API-Arg": '{"path": "/chunked"}', "Content-Type": "application/octet-stream"}
    pieces = iter([data(100_000), b"x", data(70_000)])
    reply = post(content + "files/upload", headers=chunked, data=pieces)
    assert reply.json()["content_hash"] == content_hash(data(100_000) + b"x" + data(70_000)), reply.text
    dbx.auth_token_revoke()
    refused(dropbox.exceptions.AuthError, client().users_get_space_usage)


def log_in_in_part(other):
    flow = dropbox.DropboxOAuth2FlowNoRedirect(
        KEY, use_pkce=True, token_access_type="offline", scope=["files.metadata.read"], ca_certs=CA_FILE
    )
    code = requests.get(flow.start(), timeout=10).text
    refused(requests.HTTPError, other.finish, code)  # which has another verifier
    granted = flow.finish(requests.get(flow.start(), timeout=10).text)
    assert granted.scope == "files.metadata.read"
    limited = client(oauth2_refresh_token=granted.refresh_token)
    error = refused(dropbox.exceptions.AuthError, limited.users_get_space_usage)
    assert error.error.get_missing_scope().required_scope == "account_info.read"
    limited.auth_token_revoke()
    dead = client(oauth2_refresh_token=granted.refresh_token)
    refused(dropbox.exceptions.AuthError, dead.files_list_folder, "")
    assert client().users_get_space_usage(), "the others live on"


def secrets():
    flow = dropbox.DropboxOAuth2FlowNoRedirect(
        KEY, consumer_secret="s3cret", token_access_type="offline", ca_certs=CA_FILE
    )
    granted = flow.finish(requests.get(flow.start(), timeout=10).text)
    assert client(app_secret="s3cret", oauth2_refresh_token=granted.refresh_token).users_get_space_usage()
    refused(dropbox.exceptions.BadInputError, client(oauth2_refresh_token=granted.refresh_token).users_get_space_usage)
    assert client(app_secret="s3cret").users_get_space_usage()
    refused(dropbox.exceptions.BadInputError, client().users_get_space_usage)
    refused(dropbox.exceptions.BadInputError, client(app_secret="wrong").users_get_space_usage)
    url = "https://api.dropbox.com/oauth2/token"
    form = {"grant_type": "refresh_token", "refresh_token": REFRESH}
    reply = requests.post(url, data=form, auth=(KEY, "s3cret"), timeout=10)
    token = {"Authorization": "Bearer " + reply.json()["access_token"]}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        reply = requests.post("https://api.dropboxapi.com/2/users/get_space_usage", headers=token, timeout=10)
        if reply.status_code != 200:
            break
    assert (reply.status_code, reply.json()["error"][".tag"]) == (401, "expired_access_token")


def account():
    for check in (plain_files, listing, sequential, concurrent):
        check(client())
        print("ok", check.__name__, flush=True)
    account_and_tokens()
    print("ok account_and_tokens")


{"account": account, "secrets": secrets}[PART]()
print("ok", PART)
