# shellcheck shell=bash
# The databases and accounts of the shop. The MariaDB image sources this, once, when it creates its data
# (/docker-entrypoint-initdb.d). Nobody gets in without a certificate and a password; what the services may do
# `vv migrate apply --grant` says, table by table.

password_of() {
    cat "${VV_PASSWORDS:-/run/secrets}/database-password-$1"
}

{
    echo "CREATE USER 'migrate'@'%' IDENTIFIED BY '$(password_of migrate)' REQUIRE X509;"
    for service in order inventory payment; do
        echo "CREATE DATABASE IF NOT EXISTS ${service}_db CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;"
        echo "CREATE USER '$service'@'%' IDENTIFIED BY '$(password_of $service)' REQUIRE X509;"
        echo "GRANT ALL PRIVILEGES ON ${service}_db.* TO 'migrate'@'%' WITH GRANT OPTION;"
    done
} | docker_process_sql
