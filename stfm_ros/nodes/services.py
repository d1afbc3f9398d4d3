"""The services of a node, all std_srvs/Trigger: ~/pause, ~/resume and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger

from stfm_ros.errors import StfmError

#: what a service did, in words, or None where the node is not active
Action = Callable[[], str | None]
NOT_ACTIVE = "the node is not active: configure and activate it first (ros2 lifecycle set)"


class Services:
    """The services, from construction to :meth:`close`.

    Args:
        actions: by name.
    """

    def __init__(self, node: Node, actions: Mapping[str, Action]) -> None:
        self._node = node
        self._services = [
            node.create_service(Trigger, f"~/{name}", self._answering(action)) for name, action in actions.items()
        ]

    def close(self) -> None:
        """Take the services back."""
        for service in self._services:
            self._node.destroy_service(service)

    @staticmethod
    def _answering(action: Action) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            try:
                said = action()
            except StfmError as fault:
                response.success, response.message = False, str(fault)
                return response
            except Exception as fault:  # it would end the node
                response.success, response.message = False, f"{type(fault).__name__}: {fault}; please report this"
                return response
            response.success = said is not None
            response.message = NOT_ACTIVE if said is None else said
            return response

        return answer
