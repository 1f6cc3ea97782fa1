"""``python -m inventory_service``: serve until SIGTERM."""

from common.server import run
from common.settings import read_settings
from common.telemetry import configure_logging
from inventory_service.app import make_app
from inventory_service.settings import Settings

if __name__ == "__main__":
    settings = read_settings(Settings)
    configure_logging("inventory", settings.log_level)
    run(make_app(settings), settings)
