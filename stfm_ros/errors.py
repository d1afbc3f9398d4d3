"""The exception tree. Every message names the value, what was expected, and the next step.

StfmError
|-- ConfigError          a setting is unknown, of the wrong type, or out of range
|-- ImageError           an image message cannot be decoded or used
|-- CameraError          a camera model is missing, malformed or not finite
|-- BagError             a recording cannot be read, or lacks what was asked for
|-- DatasetError         a folder of images, depth and poses is not laid out as documented
|-- WeightsError         weights are missing, damaged, or belong to another preset
|-- TrainingError        a training run cannot begin or go on
|-- TrainingNotAvailable what training needs is not installed here
|-- RuntimeNotAvailable  the inference runtime that was asked for cannot be had
|-- EngineError          a TensorRT engine cannot be built, kept or used
`-- RosNotAvailable      ROS 2, or this package's messages, cannot be imported
"""


class StfmError(Exception):
    """Base of every error this package raises on purpose; the CLI prints it without a traceback."""


class ConfigError(StfmError):
    """A setting is unknown, of the wrong type, or out of range."""


class ImageError(StfmError):
    """An image message cannot be decoded or used."""


class CameraError(StfmError):
    """A camera model is missing, malformed or not finite."""


class BagError(StfmError):
    """A recording cannot be read, or lacks what was asked for."""


class DatasetError(StfmError):
    """A folder of images, depth and poses is not laid out as documented."""


class WeightsError(StfmError):
    """Weights are missing, damaged, or belong to another preset."""


class TrainingError(StfmError):
    """A training run cannot begin or go on."""


class TrainingNotAvailable(StfmError):
    """What training needs is not installed here."""


class RuntimeNotAvailable(StfmError):
    """The inference runtime that was asked for cannot be had on this machine."""


class EngineError(StfmError):
    """A TensorRT engine cannot be built, kept or used."""


class RosNotAvailable(StfmError):
    """ROS 2, or this package's messages, cannot be imported here."""


def brief(value: object, length: int = 60) -> str:
    """A value as it goes into a message; what a stranger sent may be of any length."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
