#!/usr/bin/env bash
# Holds comments and documents to the glossary in CONTRIBUTING.md. tests/words.txt lists the words to
# avoid and the terms to use instead. Prints file, line, word and term for each violation.
#
# usage: tests/words.sh [FOLDER]
set -euo pipefail
readonly here=$(cd "$(dirname "$0")" && pwd)

# Checks the files below a folder. Fails for any word marked never, or too many marked rarely.
check() { # FOLDER
    (
        cd "$1"
        if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
            git ls-files -z --cached --others --exclude-standard
        else
            find . -type f -print0
        fi
    ) | perl "$here/words.pl" "$1" "$here/words.txt"
}

# A check that cannot fail is worthless, so a planted word must be found in each kind of file.
self_test() {
    local folder found file word=told
    folder=$(mktemp -d)
    trap 'rm -rf -- "$folder"' RETURN
    mkdir "$folder/src"
    printf 'fn f() {\n    let _ = "%s"; // The caller was %s\n}\n' "$word" "$word" >"$folder/src/planted.rs"
    printf 'Plain `%s` text.\n\nAn error that only a\nperson can handle.\n' "$word" >"$folder/planted.md"
    printf 'key = "%s" # %s\n' "$word" "$word" >"$folder/planted.toml"
    if found=$(check "$folder" 2>&1); then
        echo "tests/words.sh finds no planted word" >&2
        return 1
    fi
    for file in "src/planted.rs:2: told" "planted.md:3: a person" "planted.toml:1: told"; do
        if [ "$(grep -cF "$file" <<<"$found")" != 1 ]; then
            echo "tests/words.sh does not find the planted $file exactly once: $found" >&2
            return 1
        fi
    done
    printf '// The caller was notified\n' >"$folder/src/planted.rs"
    rm "$folder/planted.md" "$folder/planted.toml"
    check "$folder" >/dev/null
}

self_test
check "${1:-$here/..}"
