"""The engine behind which any OpenAI-compatible server decodes.

``server`` describes the remote, ``capability`` says which policies can be applied there, ``client`` speaks HTTP and
``sse`` its event streams, ``token_decoder`` and ``text_decoder`` are the remote as a driver sees it (with token ids, or
with text only: ``chunks`` and ``accounting``), ``engine`` puts them together.
"""
