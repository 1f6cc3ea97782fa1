"""``python -m inventory_service``: serve until SIGTERM."""

from common.server import main
from inventory_service.app import make_app
from inventory_service.settings import Settings

if __name__ == "__main__":
    main("inventory", Settings, make_app)
