#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# The ABI as lists, a line for each fact, as docs/abi/ keeps them: what the library exports, with
# versions and types; where the members of structures are; what constants are worth. Made from the library
# and the header by the compiler. Names of parameters are left out: nobody's program depends on them.
#
# usage: abi-lists.sh write LIBRARY DIRECTORY       writes the lists there
#        abi-lists.sh compare OLD NEW               what a program built with OLD's header would miss
#        abi-lists.sh added OLD NEW                 what OLD does not have
#
# HEADER in the environment is another header than include/vfiomig.h.

set -eu
cc=${CC:-cc}
header=${HEADER:-include/vfiomig.h}

# Statements of the header, one a line: structures with their members, types of callbacks, functions.
statements() {
	$cc -std=c11 -E -P -D__GNUC__=0 -include "$header" -x c /dev/null 2>/dev/null | tr '\n\t' '  ' |
		sed -E 's/__attribute__ *\(\([^()]*(\([^()]*\))?\)\)//g; s/  */ /g' | awk -v RS=';' '{
			text = (text == "" ? $0 : text ";" $0)
			if (gsub(/\{/, "{", text) > gsub(/\}/, "}", text)) next
			sub(/^ */, "", text)
			if (text ~ /vfiomig_/) print text
			text = ""
		}'
}

# struct|function|callback, and the type of each, tab-separated, from the statements.
facts() {
	statements | awk '
		# "int a, const char *b" without a and b.
		function types(list,  parts, n, i, out) {
			if (list ~ /^ *(void)? *$/) return "void"
			n = split(list, parts, ",")
			for (i = 1; i <= n; i++) {
				gsub(/^ +| +$/, "", parts[i])
				sub(/[A-Za-z_0-9]+$/, "", parts[i])
				sub(/ +$/, "", parts[i])
				out = out (i > 1 ? ", " : "") parts[i]
			}
			return out
		}
		# "int (*name)(int a)" or "int name(int a)": NAME, tab, type.
		function callable(text,  open, head, name, list) {
			list = text; sub(/^[^(]*\(\*[A-Za-z_0-9]+\) *\(/, "", list)
			if (list == text) {
				open = index(text, "(")
				list = substr(text, open + 1); head = substr(text, 1, open - 1)
				match(head, /[A-Za-z_0-9]+ *$/)
				name = substr(head, RSTART); head = substr(head, 1, RSTART - 1)
			} else {
				match(text, /\(\*[A-Za-z_0-9]+\)/)
				name = substr(text, RSTART + 2, RLENGTH - 3); head = substr(text, 1, RSTART - 1)
			}
			sub(/\) *$/, "", list); gsub(/ +$/, "", head); gsub(/ /, "", name)
			return name "\t" head " (" types(list) ")"
		}
		/^typedef .*\(\*vfiomig_/ { sub(/^typedef /, ""); print "callback\t" callable($0); next }
		/^struct vfiomig_[a-z_]+ \{/ {
			type = $2
			print "struct\t" type
			sub(/^[^{]*\{ */, ""); sub(/ *\} *$/, "")
			n = split($0, members, ";")
			for (i = 1; i <= n; i++) {
				text = members[i]; gsub(/^ +| +$/, "", text)
				if (text == "") continue
				if (text ~ /\(\*/) { print "member\t" type "\t" callable(text); continue }
				array = ""
				if (match(text, /\[[0-9]+\]$/)) { array = substr(text, RSTART); text = substr(text, 1, RSTART - 1) }
				match(text, /[A-Za-z_0-9]+$/)
				name = substr(text, RSTART); text = substr(text, 1, RSTART - 1); sub(/ $/, "", text)
				print "member\t" type "\t" name "\t" text array
			}
			next
		}
		/^(typedef|enum|struct vfiomig_[a-z_]+$)/ { next }
		/\(/ { print "function\t" callable($0) }'
}

# What the compiler says of sizes, places and values.
measured() {
	{
		printf '#include <stddef.h>\n#include <stdio.h>\n#include "%s"\nint main(void) {\n' "$(realpath "$header")"
		awk -F '\t' '
			$1 == "struct" { printf "printf(\"struct %s: size %%zu\\n\", sizeof(struct %s));\n", $2, $2 }
			$1 == "member" {
				printf "printf(\"struct %s.%s: at %%zu, size %%zu, %s\\n\", offsetof(struct %s, %s), sizeof(((struct %s *)0)->%s));\n",
					$2, $3, $4, $2, $3, $2, $3
			}
			$1 == "callback" { printf "printf(\"callback %s: %s\\n\");\n", $2, $3 }' "$work/facts"
		printf 'return 0;\n}\n'
	} >"$work/layout.c"
	$cc -o "$work/layout" "$work/layout.c"
	"$work/layout" >"$2/layout.txt"
	{
		printf '#include <stdint.h>\n#include <stdio.h>\n#include "%s"\nint main(void) {\n' "$(realpath "$header")"
		sed -n 's/^#define \(VFIOMIG_[A-Z0-9_]*\) .*/\1/p' "$header" |
			grep -vE '^VFIOMIG_(VERSION.*|MUST_CHECK|.*_INIT)$' | LC_ALL=C sort -u |
			awk '{ printf "printf(\"%s: %%#llx\\n\", (unsigned long long)(%s));\n", $1, $1 }'
		printf 'return 0;\n}\n'
	} >"$work/constants.c"
	$cc -w -o "$work/constants" "$work/constants.c"
	"$work/constants" >"$2/constants.txt"
	nm --dynamic --defined-only --with-symbol-versions "$1" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort |
		awk -F '\t' 'NR == FNR { if ($1 == "function") type[$2] = $3; next }
			{ split($0, part, "@@"); print part[1] ": " part[2] ", " (part[1] in type ? type[part[1]] : "not declared") }' \
			"$work/facts" - >"$2/symbols.txt"
}

# Lines of OLD whose thing NEW lacks, or has differently. A structure may grow.
missed() {
	for list in symbols layout constants; do
		awk '
			{ at = index($0, ": "); key = substr($0, 1, at - 1); value = substr($0, at + 2) }
			NR == FNR { now[key] = value; next }
			!(key in now) { print key " is gone (it was " value ")"; next }
			now[key] == value { next }
			value ~ /^size [0-9]+$/ && substr(now[key], 6) + 0 > substr(value, 6) + 0 { next }
			{ print key " was " value ", and is now " now[key] }' "$2/$list.txt" "$1/$list.txt"
	done
}

new_lines() {
	for list in symbols layout constants; do
		LC_ALL=C sort "$1/$list.txt" >"$work/old"
		LC_ALL=C sort "$2/$list.txt" | LC_ALL=C comm -13 "$work/old" -
	done
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case ${1-} in
write)
	mkdir -p "$3"
	facts >"$work/facts"
	measured "$2" "$3"
	for list in symbols layout constants; do
		[ "$(wc -l <"$3/$list.txt")" -ge 40 ] || { echo "abi-lists: $list has fewer than 40 lines" >&2; exit 1; }
	done
	;;
compare) missed "$2" "$3" ;;
added) new_lines "$2" "$3" ;;
*) exit 2 ;;
esac
