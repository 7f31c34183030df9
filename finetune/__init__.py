"""Fine-tune a pretrained backbone with a head and a loss; knows no data set by name.

Modules are imported by name (``from finetune.images.manifest import Manifest``), so that reading a manifest
or a configuration never pays for importing torch.
"""
