"""The state of one end of an HTTP/2 connection: that of `h2`, within our bounds, and with our reading of two rules."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, StreamReset
from h2.exceptions import InvalidBodyLengthError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, WindowUpdateFrame

from cloned_proxy.proxy.inspection.connections import bounds


class _Connection(H2Connection):
    """`h2` ends the connection for two things that do not concern all of it."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        """A GOAWAY only says that nothing new is to begin (RFC 9113, section 6.8)."""
        told = ConnectionTerminated()
        told.error_code, told.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [told]

    def _receive_data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        """A body of another length than it announced is an error of its stream (section 8.1.1)."""
        try:
            return super()._receive_data_frame(frame)
        except InvalidBodyLengthError:
            frames: list[Frame] = self._get_stream_by_id(frame.stream_id).reset_stream(ErrorCodes.PROTOCOL_ERROR)
            # Nobody reads these bytes, so their share of the window comes back here.
            back = self._inbound_flow_control_window_manager.process_bytes(frame.flow_controlled_length)
            if back:
                frames.append(WindowUpdateFrame(0, window_increment=back))
            told = StreamReset(stream_id=frame.stream_id)
            told.error_code, told.remote_reset = ErrorCodes.PROTOCOL_ERROR, False
            return frames, [told]


def make_connection(*, client_side: bool, max_head_bytes: int) -> H2Connection:
    """The state of one end, within our bounds. What it reads is not validated: `heads` is stricter."""
    made = _Connection(
        H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    wanted = {
        SettingCodes.HEADER_TABLE_SIZE: bounds.HEADER_TABLE,
        SettingCodes.MAX_CONCURRENT_STREAMS: bounds.MAX_STREAMS,
        SettingCodes.INITIAL_WINDOW_SIZE: bounds.STREAM_WINDOW,
        SettingCodes.MAX_HEADER_LIST_SIZE: max_head_bytes,
    }
    if client_side:
        wanted[SettingCodes.ENABLE_PUSH] = 0
    made.local_settings = Settings(client=client_side, initial_values=wanted)
    made.decoder.max_header_list_size = max_head_bytes
    return made
