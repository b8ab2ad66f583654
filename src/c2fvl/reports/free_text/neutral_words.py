"""The words that change nothing of what the others say."""

_WORDS = """
a abnormal about accompanying acquired acute adjacent after again age aged air air-bronchograms airways along also
alveolar an anterior anteriorly any ap appearance appearances appearing appropriate approximately are area areas
around as aspect aspects associated asymmetric asymmetrical asymmetrically at atypical axial background band base's
basis be been being border borders both bronchi bronchogram bronchograms by case central centrally change changes
characteristic chest chiefly clearly close cluster clusters cm coalescent coarse coarsened comment community
complete completely component compressive conclusion confluence confluent considerable containing contains continues
contour cough current currently day days demonstrated demonstrating dense densely density developed developing
development diameter diffuse diffusely discrete disease dispersed distinct distribution dominant due during dyspnoea
early erect especially evident evolving exam examined existing extending extends extensive extent faint fairly
feature features female fever field film finding findings fine first florid focal focally follows for found frank
from frontal full fully further general generally given gradually hand has have he heavily heavy her his homogeneous
homogeneously identified ill imaged imaging impression in increase increased increasing increasingly independent
infected inferior inferiorly inflammatory inner inside interval into involve involved involves involving ipsilateral
irregular is it its itself just large largely larger lateral laterally least less level lies localised localized
located location loss lots lying main mainly major male man many marked markedly massive maximal measure measured
measures measuring medial medially mild mildly minimal minimally minor mm moderate moderately mostly multifocal
multilobar multiple nearly newly nodular not notable noted now now's numerous obliterating obscured obscures
obscuring observed occupied occupies occupying of old on one onto opinion opposite other our out outer over overall
pa parenchyma part partial partially parts patch patches patchy patient patient's pattern peripheral peripherally
persist persistent persisting persists place portable portion posterior posteriorly predominance predominant
predominantly predominating presence present primarily principally progress progressed progresses progressing
progressive progressively prominent pronounced quite rapid rapidly rather really region remain remains report result
results retrocardiac round rounded scattered seen segment segmental segments separate several severe severely shadow
shadows shaped she showing shown shows side sided sides silhouette sit sits size sized slight slightly small solid
some spared spread spreading stable still streaky striking subpleural subsegmental substantial subtle superior
superiorly supine surrounding symmetric symmetrical symmetrically that the their then there these they this those
through throughout to today together two type typical unchanged underlying upright vague very view views visible
visualised visualized wedge well when which who widely widespread with within woman worse worsened worsening worst x
year yet yo you younger zone
"""
NEUTRAL = frozenset(_WORDS.split())
"""A sentence on a finding with a word that is neither here nor a term is left open: that word may turn its meaning."""
