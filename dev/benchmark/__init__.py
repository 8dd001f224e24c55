"""What inference and training steps cost, of this project alone and beside MMDetection.

Imports nothing itself: MMDetection's process uses some of its modules without Detectron2.
"""
