"""``python -m payment_service``: serve until SIGTERM."""

from common.server import main
from payment_service.app import make_app
from payment_service.settings import Settings

if __name__ == "__main__":
    main("payment", Settings, make_app)
