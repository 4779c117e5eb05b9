"""Necks: what stands between a student's backbone and its head."""

from .simkd_neck import SimKDNeck

__all__ = ['SimKDNeck']
