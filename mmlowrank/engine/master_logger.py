"""The logger hook that the tools use where there are several processes."""

from mmengine.dist import master_only
from mmengine.hooks import LoggerHook

from ..registry import HOOKS


@HOOKS.register_module()
class MasterLoggerHook(LoggerHook):
    """LoggerHook whose main process alone writes the metrics of a test.

    mmengine's own writes ``TIME/TIME.json`` from every process at once. The
    processes' times differ in length, so the file may end as no valid JSON.
    """

    after_test_epoch = master_only(LoggerHook.after_test_epoch)
