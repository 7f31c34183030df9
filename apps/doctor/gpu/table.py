"""The twelve checks, in their order, and how long each may take; importing it imports all that they try."""

from __future__ import annotations

from apps.doctor.gpu.check import Check
from apps.doctor.gpu.checks.heads import check_heads
from apps.doctor.gpu.checks.losses import check_compiled_losses, check_losses
from apps.doctor.gpu.checks.machine import check_machine
from apps.doctor.gpu.checks.memory import check_memory
from apps.doctor.gpu.checks.ranks import check_ranks
from apps.doctor.gpu.checks.repeat import check_repeat
from apps.doctor.gpu.checks.resume import check_resume
from apps.doctor.gpu.checks.scores import check_scores
from apps.doctor.gpu.checks.serving import check_serving
from apps.doctor.gpu.checks.speed import check_speed
from apps.doctor.gpu.checks.traffic import check_traffic

CHECKS = (
    Check(1, "machine", check_machine, 5),
    Check(2, "losses", check_losses, 15),
    Check(3, "compiled losses", check_compiled_losses, 40),
    Check(4, "heads", check_heads, 30),
    Check(5, "float32", check_scores, 10),
    Check(6, "repeatability", check_repeat, 40),
    Check(7, "resuming", check_resume, 30),
    Check(8, "two processes", check_ranks, 30, quick=False),
    Check(9, "waiting", check_traffic, 10),
    Check(10, "serving", check_serving, 15),
    Check(11, "speed", check_speed, 50, quick=False),
    Check(12, "memory", check_memory, 20, quick=False),
)
