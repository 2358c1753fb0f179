"""The paper's scheduler in RTL (section V-B): generator, lock step with the software, synthesis. Extra ``rtl``."""
