"""Amazon's own library finds its way around the stand-in for S3.

    proof_s3.py URL REGION BUCKET KEY_ID SECRET
"""

import datetime
import sys
import urllib.error
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

url, region, bucket, key_id, secret = sys.argv[1:]


def client(region=region, secret=secret, **more):
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"max_attempts": 0},
        **more,
    )
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=config,
    )


def code(call):
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def http(method, address, data=None, **headers):
    asked = urllib.request.Request(address, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(asked) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


s3 = client(request_checksum_calculation="when_required")
key = "team/ä b+c~(1)'!*&=%/🦊.tar.gz"
body = bytes(range(256)) * 40

# Objects.
s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/gzip")
got = s3.get_object(Bucket=bucket, Key=key)
assert got["Body"].read() == body and got["ContentType"] == "application/gzip"
head = s3.head_object(Bucket=bucket, Key=key)
assert head["ContentLength"] == len(body)
age = datetime.datetime.now(datetime.timezone.utc) - head["LastModified"]
assert abs(age.total_seconds()) < 60, age
part = s3.get_object(Bucket=bucket, Key=key, Range="bytes=10-19")
assert part["Body"].read() == body[10:20]
assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == region

# An object in parts.
upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
sent = []
for number in (1, 2):
    reply = s3.upload_part(
        Bucket=bucket, Key="parts", UploadId=upload, PartNumber=number, Body=body
    )
    sent.append({"ETag": reply["ETag"], "PartNumber": number})
s3.complete_multipart_upload(
    Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": sent}
)
assert s3.get_object(Bucket=bucket, Key="parts")["Body"].read() == body * 2

# Lists, in pages and by folders.
for number in range(7):
    s3.put_object(Bucket=bucket, Key=f"list/{number % 3}/{number}", Body=b"x")
pages = s3.get_paginator("list_objects_v2").paginate(
    Bucket=bucket, Prefix="list/", PaginationConfig={"PageSize": 2}
)
found = [entry["Key"] for page in pages for entry in page["Contents"]]
assert found == sorted(f"list/{number % 3}/{number}" for number in range(7)), found
pages = s3.get_paginator("list_objects").paginate(
    Bucket=bucket, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2}
)
found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
assert found == ["list/0/", "list/1/", "list/2/"], found
listed = s3.list_objects_v2(Bucket=bucket, Prefix="team/")["Contents"]
assert [entry["Key"] for entry in listed] == [key], listed
s3.delete_object(Bucket=bucket, Key="parts")
assert code(lambda: s3.get_object(Bucket=bucket, Key="parts")) == "NoSuchKey"

# Addresses that anybody may use, as GitLab uses them.
target = {"Bucket": bucket, "Key": key}
address = s3.generate_presigned_url("put_object", Params=target, ExpiresIn=60)
headers = {"Content-Type": "application/gzip"}
assert http("PUT", address, b"new", **headers)[0] == 200
read = s3.generate_presigned_url("get_object", Params=target, ExpiresIn=60)
assert http("GET", read) == (200, b"new")
# Not for another method, another key, or longer.
assert b"SignatureDoesNotMatch" in http("GET", address)[1]
assert b"SignatureDoesNotMatch" in http("PUT", address.replace("team", "tean"), b"")[1]
longer = address.replace("X-Amz-Expires=60", "X-Amz-Expires=600")
assert b"SignatureDoesNotMatch" in http("PUT", longer, b"")[1]
assert http("PUT", address, b"", **{"x-amz-acl": "public-read"})[0] == 403
typed = {**target, "ContentType": "application/gzip"}
address = s3.generate_presigned_url("put_object", Params=typed, ExpiresIn=60)
assert http("PUT", address, b"typed", **headers)[0] == 200
assert http("PUT", address, b"typed", **{"Content-Type": "text/plain"})[0] == 403

# Who may not.
listing = lambda of: lambda: of.list_objects_v2(Bucket=bucket)
assert code(listing(client(secret="another"))) == "SignatureDoesNotMatch"
missing = lambda: s3.list_objects_v2(Bucket="no-such-bucket")
assert code(missing) == "NoSuchBucket"
status, reply = http("GET", f"{url}/{bucket}")
assert status == 403 and b"AccessDenied" in reply
print("proved")
