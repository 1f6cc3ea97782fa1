#!/bin/bash
# Unpacks the MySQL server of Debian's unstable distribution into a folder, and leaves there a program "mysqld" that runs it.
# Nothing is installed: apt keeps its lists and packages in that folder, and MySQL brings its own loader and libraries.
set -euo pipefail

folder=$(realpath -m "$1")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 'Component: main' | sed -n 1p)
if [ -z "$mirror" ] || [ ! -e "$keyring" ]; then
	echo 'This needs a Debian, for its mirror and its keys.' >&2
	exit 1
fi

rm -rf "$folder"
mkdir -p "$folder"/apt/{state/lists/partial,cache/archives/partial} "$folder/debs"
touch "$folder/apt/status"
echo "deb [signed-by=$keyring] $mirror sid main" > "$folder/apt/sources.list"
cat > "$folder/apt/apt.conf" <<- END
	Dir::Etc::sourcelist "$folder/apt/sources.list";
	Dir::Etc::sourceparts "/dev/null";
	Dir::State "$folder/apt/state";
	Dir::State::status "$folder/apt/status";
	Dir::Cache "$folder/apt/cache";
	APT::Sandbox::User "$(id -un)";
	APT::Install-Recommends "false";
END
export APT_CONFIG=$folder/apt/apt.conf
apt-get -qq update
mapfile -t packages < <(apt-get -s install mysql-server-core | sed -n 's/^Inst \([^ ]*\).*/\1/p')
(cd "$folder/debs" && apt-get -qq download "${packages[@]}")
for package in "$folder"/debs/*.deb; do
	dpkg -x "$package" "$folder/root"
done

libraries=("$folder"/root/usr/lib/*-linux-gnu)
loaders=("$folder"/root/usr/lib*/ld-linux*.so.*)
cat > "$folder/mysqld" <<- END
	#!/bin/sh
	exec '${loaders[0]}' --argv0 '$folder/root/usr/sbin/mysqld' --library-path '${libraries[0]}' '$folder/root/usr/sbin/mysqld' "\$@"
END
chmod +x "$folder/mysqld"
rm -rf "$folder/apt" "$folder/debs"
"$folder/mysqld" --no-defaults --version
