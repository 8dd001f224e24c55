"""What gets QueryInst's surroundings in place: Detectron2, and a report of what is installed.

A package of its own because `queryinst` cannot be imported before Detectron2 is there. It needs the
standard library alone; torch and Detectron2 are looked at in a process of their own (`probe`).
"""
