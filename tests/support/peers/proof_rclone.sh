#!/bin/sh
# Drives the stand-in with rclone, which was not written by us: its Dropbox backend, through CONNECT and TLS.
#
# usage: proof_rclone.sh PROXY CA_FILE, of a stand-in whose app has the secret `s3cret`
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
HTTPS_PROXY=$1
SSL_CERT_FILE=$2
RCLONE_CONFIG=$dir/rclone.conf
export HTTPS_PROXY SSL_CERT_FILE RCLONE_CONFIG
cat >"$RCLONE_CONFIG" <<CONFIG
[box]
type = dropbox
client_id = standin-app-key
client_secret = s3cret
token = {"access_token":"old","token_type":"bearer","refresh_token":"standin-refresh-token","expiry":"2020-01-01T00:00:00Z"}
CONFIG

mkdir "$dir/many"
head -c 104857600 /dev/urandom >"$dir/big"
for number in 1 2 3 4 5; do head -c "$((number * 100000))" /dev/urandom >"$dir/many/$number"; done
: >"$dir/many/empty"

box() { rclone --log-level NOTICE "$@"; }
box copyto "$dir/big" box:Backups/big --dropbox-chunk-size 16M
box copy "$dir/many" box:Backups/many
test "$(box lsf -R box:Backups | sort | tr '\n' ' ')" = "big many/ many/1 many/2 many/3 many/4 many/5 many/empty "
box check "$dir" box:Backups --include big --include 'many/**' --one-way
test "$(box hashsum dropbox box:Backups/big)" = "$(box hashsum dropbox "$dir/big")"
box cat box:Backups/big | cmp - "$dir/big"
box cat box:Backups/big --offset 50000000 --count 10 | cmp - "$dir/big" -i 0:50000000 -n 10
box copy box:Backups "$dir/back" && cmp "$dir/back/big" "$dir/big" && diff -r "$dir/back/many" "$dir/many"
box moveto box:Backups/big box:Backups/moved
box copyto "$dir/big" box:Backups/many/1 # replaces a file
box about box: | grep -q 'Used: *20[01]'
box deletefile box:Backups/moved
box purge box:Backups
test -z "$(box lsf box:)"
echo ok rclone
