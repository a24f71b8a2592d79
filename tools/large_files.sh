#!/usr/bin/env bash
# Fails if one of the files given is over 500 kB.
status=0
for file in "$@"; do
  size=$(stat -c %s "$file")
  if [ "$size" -gt 500000 ]; then
    echo "$file has $size bytes, more than 500000" >&2
    status=1
  fi
done
exit $status
