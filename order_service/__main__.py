"""``python -m order_service``: serve until SIGTERM."""

from common.server import main
from order_service.app import make_app
from order_service.settings import Settings

if __name__ == "__main__":
    main("order", Settings, make_app)
