#!/usr/bin/env bash
# Fails if one of the files given is over 600 kB.
status=0
for file in "$@"; do
  size=$(stat -c %s "$file")
  if [ "$size" -gt 600000 ]; then
    echo "$file has $size bytes, more than 600000" >&2
    status=1
  fi
done
exit $status
