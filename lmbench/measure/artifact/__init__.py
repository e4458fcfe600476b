"""A trained model as a file of so many bytes, loaded again from nothing but them.

`pack` and `load` are the two ends, `predict` counts the bytes beforehand, `tables` shows both.
"""

from lmbench.measure.artifact.coding import Coding as Coding
from lmbench.measure.artifact.format import MAX_BYTES as MAX_BYTES
from lmbench.measure.artifact.pack import Packed as Packed
from lmbench.measure.artifact.pack import TensorSize as TensorSize
from lmbench.measure.artifact.pack import pack as pack
from lmbench.measure.artifact.predict import Prediction as Prediction
from lmbench.measure.artifact.predict import capacity as capacity
from lmbench.measure.artifact.predict import predicted_bytes as predicted_bytes
from lmbench.measure.artifact.tables import sparse_table as sparse_table
from lmbench.measure.artifact.tables import split_table as split_table
from lmbench.measure.artifact.tables import tensor_table as tensor_table
from lmbench.measure.artifact.tokenizer import load_tokenizer as load_tokenizer
from lmbench.measure.artifact.tokenizer import tokenizer_bytes as tokenizer_bytes
from lmbench.measure.artifact.unpack import Unpacked as Unpacked
from lmbench.measure.artifact.unpack import built as built
from lmbench.measure.artifact.unpack import load as load
from lmbench.measure.artifact.unpack import unpack as unpack
