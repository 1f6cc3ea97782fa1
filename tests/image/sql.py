"""Run the SQL on standard input as root of a MariaDB; in place of the client program, which its image has."""

import os
import sys

import pymysql

with pymysql.connect(unix_socket=os.environ["SOCKET"], user="root", password=os.environ["ROOT_PASSWORD"]) as connection:
    for statement in filter(str.strip, sys.stdin.read().split(";\n")):
        connection.cursor().execute(statement)
