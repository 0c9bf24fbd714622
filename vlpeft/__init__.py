"""vlpeft: a benchmark harness for parameter-efficient adaptation of vision-language models.

In a checkout, the packages in this folder are links to the folders of the same names beside it.
A wheel holds their files here. Either way, each module has one name: `vlpeft.benchmark.run.loop`.
"""
