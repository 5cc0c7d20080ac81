#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Takes the C examples out of documents, each into a file: DIRECTORY/NAME-N.c is the Nth of NAME.md.
# In a header they are what is indented by five in its comments. The test that is made of them must
# use every one, so that none is left unchecked. For the same reason a fence is written in one way
# only, "```c" at the beginning of a line: any other, which would be skipped, is an error.
#
# usage: doc-examples.sh TEST.c DIRECTORY DOCUMENT...

set -eu
test=$1
out=$2
shift 2
rm -rf "$out"
mkdir -p "$out"
# make looks at its time: after a failure it must not be there.
trap 'rm -rf "$out"' EXIT

for document in "$@"; do
	name=$(basename "$document" .md)
	name=$(basename "$name" .h)
	awk -v document="$document" -v base="$out/$name-" '
		document ~ /\.h$/ {
			if (!sub(/^ \*     /, "")) { file = ""; next }
			if (!file) { n++; file = base n ".c"; printf "#line %d \"%s\"\n", NR, document >file }
			print >file
			next
		}
		/^[ \t>*+-]*([0-9]+[.)][ \t]+)?(```|~~~)/ && !/^```(c|json|sh|text)?$/ {
			printf "%s:%d: a fence must be ``` at the beginning of a line, ", document, NR >"/dev/stderr"
			print "with c, json, sh, text or nothing right behind it: " $0 >"/dev/stderr"
			bad = 1
		}
		/^```c$/ { n++; file = base n ".c"; printf "#line %d \"%s\"\n", NR + 1, document >file; next }
		/^```/ { file = ""; next }
		file { print >file }
		END { exit bad }' "$document"
	[ -s "$out/$name-1.c" ] || {
		echo "$document: there is no C example in it" >&2
		exit 1
	}
done
status=0
for example in "$out"/*.c; do
	grep -qF "#include \"$(basename "$example")\"" "$test" || {
		echo "$test does not use $(basename "$example"): $(head -n 1 "$example")" >&2
		status=1
	}
done
[ $status -ne 0 ] || trap - EXIT
exit $status
