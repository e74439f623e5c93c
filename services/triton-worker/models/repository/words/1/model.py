"""Sends the words of a text one by one: the smallest model that streams."""

from __future__ import annotations

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0].decode(errors="replace")
            pause = pb_utils.get_input_tensor_by_name(request, "pause_ms")
            pause_s = 0.0 if pause is None else float(pause.as_numpy()[0]) / 1000
            sender = request.get_response_sender()
            threading.Thread(target=self._send, args=(sender, text.split(), pause_s), daemon=True).start()

    def _send(self, sender, words, pause_s):
        # The end goes with the last word: not every client is told of an end that has no answer in it.
        if not words:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        for number, word in enumerate(words, start=1):
            last = number == len(words) or sender.is_cancelled()
            tensor = pb_utils.Tensor("text_output", np.array([word.encode()], np.object_))
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            sender.send(pb_utils.InferenceResponse([tensor]), flags=flags)
            if last:
                return
            time.sleep(pause_s)
