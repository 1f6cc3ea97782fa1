# shellcheck shell=bash
# The databases and accounts of the shop. The MariaDB image sources this, once, when it creates its data
# (/docker-entrypoint-initdb.d). Nobody gets in without a certificate and a password; what the services may do
# `vv migrate apply --grant` says, table by table.

password_of() {
    cat "${VV_PASSWORDS:-/run/secrets}/database-password-$1"
}

migrate=$(password_of migrate)
docker_process_sql <<< "CREATE USER 'migrate'@'%' IDENTIFIED BY '$migrate' REQUIRE X509;"
for service in order inventory payment; do
    password=$(password_of "$service")
    docker_process_sql <<- SQL
	CREATE DATABASE IF NOT EXISTS ${service}_db CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
	CREATE USER '$service'@'%' IDENTIFIED BY '$password' REQUIRE X509;
	GRANT ALL PRIVILEGES ON ${service}_db.* TO 'migrate'@'%' WITH GRANT OPTION;
	SQL
done
