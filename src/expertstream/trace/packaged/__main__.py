"""Write the packaged traces anew."""

from expertstream.trace.packaged import FOLDER, write

write(FOLDER)
