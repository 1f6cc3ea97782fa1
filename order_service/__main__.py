"""``python -m order_service``: serve until SIGTERM."""

from common.server import run
from common.settings import read_settings
from common.telemetry import configure_logging
from order_service.app import make_app
from order_service.settings import Settings

if __name__ == "__main__":
    settings = read_settings(Settings)
    configure_logging("order", settings.log_level)
    run(make_app(settings), settings)
