"""scikit-learn's callbacks where the installed version has them (1.9 on), silence elsewhere."""

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    def with_callbacks(method):
        """Leave the method as it is."""
        return method

    class CallbackSupportMixin:
        """Gives a context that tells nobody."""

        def _init_callback_context(self, **kwargs):
            return _Silence()

    class _Silence:
        def subcontext(self, **kwargs):
            return self

        def call_on_fit_task_begin(self, **kwargs):
            pass

        def call_on_fit_task_end(self, **kwargs):
            return False


__all__ = ["CallbackSupportMixin", "with_callbacks"]
