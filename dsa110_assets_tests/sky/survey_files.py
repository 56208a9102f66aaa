"""Catalogues as text, in the forms that surveys and people provide: the contents of each, and the reason for which each is refused."""

from __future__ import annotations

from pathlib import Path

RA, DEC, JY = 80.1, -16.2, 0.12
"""Position of the first source of each: 05 20 24.0, -16 12 00."""


def text(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


VIZIER = """#
#   VizieR Astronomical Server vizier.cds.unistra.fr
#    Date: 2026-01-25T22:00:00 [V7.4]
#INFO\t-ref=VIZ1\t
#RESOURCE=yCat_8065
#Name: VIII/65
#Title: 1.4GHz NRAO VLA Sky Survey (NVSS) (Condon+ 1998)
#Table\tVIII_65_nvss:
#Column\tRAJ2000\t(A11)\tRight Ascension J2000\t[ucd=pos.eq.ra;meta.main]
#Column\tS1.4\t(F8.1)\t? Integrated 1.4GHz flux density\t[ucd=phot.flux.density]
"""
NVSS_TSV = (
    VIZIER + "Field\tNVSS\tRAJ2000\tDEJ2000\te_RAJ2000\tS1.4\te_S1.4\tl_MajAxis\tMajAxis\n"
    ' \t \t"h:m:s"\t"d:m:s"\ts\tmJy\tmJy\t \tarcsec\n'
    "--------\t--------------\t-----------\t-----------\t-----\t--------\t-------\t-\t-----\n"
    "C0520M16\t052024-161200\t05 20 24.00\t-16 12 00.0\t 0.03\t   120.0\t   3.6\t<\t 18.4\n"
    "C0524M16\t052424-160000\t05 24 24.00\t-16 00 00.0\t 0.03\t    20.0\t   0.6\t \t     \n"
)
TEXTS = {
    "VizieR, tab-separated": ("asu.tsv", NVSS_TSV, 1400, "052024-161200"),
    "VizieR, ';'-separated": ("asu-scsv", NVSS_TSV.replace("\t", ";"), 1400, "052024-161200"),
    "TGSS ADR1": (
        "TGSSADR1_7sigma_catalog.tsv",
        "Source_name\tRA\tE_RA\tDEC\tE_DEC\tTotal_flux\tE_Total_flux\tPeak_flux\tE_Peak_flux\tMaj\tRMS_noise\tSource_code\tMosaic_name\n"
        "TGSSADR J052024.0-161200\t80.1\t2.0\t-16.2\t2.0\t120.0\t12\t110.0\t11\t25.1\t3.5\tS\tR15D20\n",
        147.5,
        "TGSSADR J052024.0-161200",
    ),
    "TGSS of another name": (
        "list.txt",
        "Source_name RA DEC Total_flux Peak_flux RMS_noise Source_code Mosaic_name\nX 80.1 -16.2 120.0 110.0 3.5 S R15D20\n",
        147.5,
        "X",
    ),
    "SUMSS's own file": (
        "sumsscat.Mar-11-2008",
        "05 20 24.00 -16 12 00.0  1.7  1.9    118.0   3.6    120.0   3.9   46.1 44.9 171.4 0.0 0.0 0.0 J0520M16 1  510.2  330.1\n"
        "05 24 24.00 -16 00 00.0  1.7  1.9     18.0   1.6     20.0   1.9   46.1 44.9 171.4 0.0 0.0 0.0 J0520M16 1  520.2  331.1\n",
        843,
        "SUMSS J052024.0-161200",
    ),
    "FIRST's own file": (
        "catalog_14dec17.asc",
        "# RA (2000)  Dec (2000)   Ps    Fpeak      Fint   RMS   Maj  Min   PA  fMaj  fMin   fPA Field\n"
        "05 20 24.000 -16 12 00.00 0.014   110.00    120.00  0.13  3.0  1.0  42.0  6.4  5.5  42.0 05210-16114X\n"
        "05 24 24.000 -00 30 00.00 0.014   11.00     12.00  0.13  3.0  1.0  42.0  6.4  5.5  42.0 05210-16114X\n",
        1400,
        "FIRST J052024.0-161200",
    ),
    "VLASS, CIRADA": (
        "components.csv",
        "Component_name,RA,E_RA,DEC,E_DEC,Total_flux,E_Total_flux,Peak_flux,Isl_rms,Tile,Peak_to_ring,Duplicate_flag,Quality_flag,Source_name\n"
        "VLASS1QLCIR J052024.00-161200.0,80.1,1e-5,-16.2,1e-5,120.0,1.0,110.0,0.12,T01t01,30.1,1,0,\n"
        "VLASS1QLCIR J052024.01-161200.1,80.10002,1e-5,-16.20001,1e-5,119.0,1.0,110.0,0.12,T01t02,30.1,2,0,\n"
        "VLASS1QLCIR J052030.00-161200.0,80.125,1e-5,-16.2,1e-5,3.0,1.0,2.0,0.12,T01t01,1.1,0,1,\n",
        3000,
        "VLASS1QLCIR J052024.00-161200.0",
    ),
    "RACS-low sources": (
        "export.csv",
        "catalogue_id,source_name,source_id,field_id,sbid,n_gaus,ra,dec,e_ra,e_dec,total_flux_source,e_total_flux_source,peak_flux,noise\n"
        "1,J052024.0-161200,RACS_0520-16A_1,RACS_0520-16A,8578,1,80.1,-16.2,0.1,0.1,120.0,2.0,110.0,0.3\n",
        887.5,
        "J052024.0-161200",
    ),
    "RACS-low Gaussians": (
        "gaussians.csv",
        "gaussian_id,source_id,sbid,ra,dec,total_flux_gaussian,total_flux_source,e_total_flux_source,peak_flux\n"
        "G1,RACS_1,8578,80.1,-16.2,120.0,200.0,2.0,110.0\nG2,RACS_1,8578,80.11,-16.2,80.0,200.0,2.0,70.0\n",
        887.5,
        "RACS_1",
    ),
    "RACS-mid, by its file's name": (
        "AS110_Derived_Catalogue_racs_mid_components_v01_15373.csv",
        "catalogue_id,name,source_id,field_id,sbid,ra,dec,total_flux,e_total_flux,peak_flux,e_peak_flux\n"
        "1,RACS-MID1 J052024.0-161200,R_1,RACS_0520-16,20000,80.1,-16.2,120.0,2.0,110.0,1.0\n",
        1367.5,
        "RACS-MID1 J052024.0-161200",
    ),
    "CASDA": (
        "result.csv",
        "id,catalogue_id,sbid,island_id,component_id,component_name,ra_hms_cont,dec_dms_cont,ra_deg_cont,dec_deg_cont,freq,flux_peak,flux_int,"
        "spectral_index\n"
        "1,2,3,SB1_island_1,SB1_component_1a,J052024-161200,05:20:24.0,-16:12:00,80.1,-16.2,943.5,110.0,120.0,-99.0\n",
        943.5,
        "J052024-161200",
    ),
    "LoTSS DR2": (
        "srl.csv",
        "Source_Name,RA,E_RA,DEC,E_DEC,Peak_flux,Total_flux,Isl_rms,S_Code,Mosaic_ID,Number_Pointings,Masked_Fraction\n"
        "ILTJ052024.00-161200.0,80.1,0.1,-16.2,0.1,110.0,120.0,0.08,S,P080-16,3,0.0\n",
        144,
        "ILTJ052024.00-161200.0",
    ),
    "GLEAM": (
        "egc.csv",
        "Name,background_wide,ra_str,dec_str,RAJ2000,DEJ2000,peak_flux_wide,int_flux_wide,int_flux_076,int_flux_227,alpha\n"
        "GLEAM J052024-161200,0.001,05:20:24,-16:12:00,80.1,-16.2,0.11,0.12,0.3,0.1,-0.81\n",
        200,
        "GLEAM J052024-161200",
    ),
    "PyBDSF": (
        "out.srl.csv",
        '# Source list for image.fits\n# Generated by PyBDSF\n# Reference frequency of the detection ("ch0") image: 9.435e+08 Hz\n\n'
        "# Source_id, Isl_id, RA, E_RA, DEC, E_DEC, Total_flux, E_Total_flux\n0, 0, 80.1, 1e-5, -16.2, 1e-5, 0.12, 0.001\n",
        943.5,
        None,
    ),
    "HEASARC": (
        "heasarc.txt",
        "|name               |ra  |dec  |flux_20_cm|\n|                   |deg |deg  |mJy       |\n"
        "|NVSS J052024-161200|80.1|-16.2|120.0|\n",
        1400,
        "NVSS J052024-161200",
    ),
    "quotation marks among units": (
        "q@1.28GHz.tsv",
        'name\tra\tdec\tmaj\tflux\tmin\trms\n\tdeg\tdeg\t"\tmJy\t"\tJy\n-\t---\t---\t---\t---\t---\t---\nA\t80.1\t-16.2\t5\t120\t5\t1\n',
        1280,
        "A",
    ),
    "positions twice": ("own@1.28GHz.csv", "ra,dec,ra_deg,dec_deg,flux_mjy\n5.34,-16.2,80.1,-16.2,120\n", 1280, None),
    "HEASARC, peak and integrated": ("f.txt", "|ra|dec|flux_20_cm|int_flux_20_cm|\n|deg|deg|mJy|mJy|\n|80.1|-16.2|110|120|\n", 1400, None),
    "header over two commented lines": (
        "own@1.28GHz.dat",
        "# a list\n# name ra_deg\n#  dec_deg flux_mjy\nA 80.1 -16.2 120\n",
        1280,
        "A",
    ),
    "columns numbered in comments": (
        "own@1.28GHz.cat",
        "#   1 NAME  what it is called\n#   2 RA_deg  [deg]\n#   3 DEC_deg\n#   4 FLUX_mJy\nA 80.1 -16.2 120\n",
        1280,
        "A",
    ),
    "hours": ("own@1.28GHz.csv", "ra [h],dec [deg],flux_mjy\n5.34,-16.2,120\n", 1280, None),
    "hours, by name": ("own@1.28GHz.csv", "ra_hours,dec_deg,peak_flux [MJY/BEAM]\n5.34,-16.2,120\n", 1280, None),
    "parts": ("own@1280MHz.csv", "RA_h,RA_m,RA_s,Dec_sign,DE_d,DE_m,DE_s,Flux [Jy]\n5,20,24,-,16,12,0,0.12\n", 1280, None),
    "parts, with the sign on zero degrees": (
        "own@1280MHz.csv",
        "RAh,RAm,RAs,DEd,DEm,DEs,flux_jy\n5,20,24,-16,12,0,0.12\n5,20,24,-00,12,0,0.1\n",
        1280,
        None,
    ),
    "16-bit text": ("sheet.csv", "ra_deg,dec_deg,flux_mjy,frequency_mhz,name\n80.1,-16.2,120,1280,A\n", 1280, "A"),
    "a document's minus": ("own@1.28GHz.csv", "ra_deg,dec_deg,flux [mJy beam⁻¹]\n80.1,−16.2,120\n", 1280, None),
    "S150": ("two.csv", "name,ra_deg,dec_deg,S_150_mhz [mJy],S1.4 [mJy]\nA,80.1,-16.2,500,120\n", 1400, "A"),
    "RACS-low, VizieR": (
        "asu.tsv",
        "#Table\tJ_other_PASA_38_58_gausscut:\nGID\tRAJ2000\tDEJ2000\tFtot\tFpk\n \tdeg\tdeg\tmJy\tmJy/beam\n"
        "---\t---\t---\t---\t---\nRACS_0520-16A_1_1\t80.1\t-16.2\t120.0\t110.0\n",
        887.5,
        None,
    ),
    "RACS-low, VizieR, without units": ("racs.csv", "GID,RAJ2000,DEJ2000,Ftot,Fpk\nRACS_1,80.1,-16.2,120.0,110.0\n", 887.5, None),
    "VLASS, CDS cross-match": (
        "matched.csv",
        "CompName,RAdeg,DEdeg,Ftot,Fpeak,DupFlag,QualFlag\nVLASS1QLCIR J052024.00-161200.0,80.1,-16.2,120,110,0,0\n",
        3000,
        "VLASS1QLCIR J052024.00-161200.0",
    ),
    "VLSSr, VizieR": (
        "vlssr.tsv",
        'RAJ2000\tDEJ2000\tSp\n"h:m:s"\t"d:m:s"\tJy/beam\n---\t---\t---\n05 20 24.0\t-16 12 00\t0.12\n',
        73.8,
        None,
    ),
    "GLEAM, VizieR, peak alone": (
        "asu.tsv",
        "GLEAM\tRAJ2000\tDEJ2000\tFpwide\n \tdeg\tdeg\tJy/beam\n---\t---\t---\t---\nJ052024-161200\t80.1\t-16.2\t0.12\n",
        200,
        "J052024-161200",
    ),
    "Selavy": (
        "selavy.components.txt",
        "#  component_id component_name ra_hms_cont dec_dms_cont ra_deg_cont dec_deg_cont  freq flux_peak flux_int\n"
        "#            --                                           [deg]        [deg] [MHz] [mJy/beam]  [mJy]\n"
        " SB1_component_1a J052024-161200 05:20:24.0 -16:12:00 80.1 -16.2 943.5 110.0 120.0\n",
        943.5,
        "J052024-161200",
    ),
    "units in parentheses": ("own@1.28GHz.txt", "name ra dec flux\n- (deg) (deg) (mJy)\nA 80.1 -16.2 120\n", 1280, "A"),
    "every unit in brackets": ("own@1.28GHz.txt", "name ra dec flux\n-- [deg] [deg] [mJy]\nA 80.1 -16.2 120\n", 1280, "A"),
    "a sign of words": (
        "own@1.28GHz.csv",
        "RAh,RAm,RAs,DE-,DEd,DEm,DEs,flux_mjy\n5,20,24,S,16,12,0,120\n5,20,24,N,16,12,0,1\n",
        1280,
        None,
    ),
    "an en dash as sign": ("own@1.28GHz.csv", "RAh,RAm,RAs,DE-,DEd,DEm,DEs,flux_mjy\n5,20,24,\u2013,16,12,0,120\n", 1280, None),
    "B1950, with VizieR's J2000": (
        "l@151MHz.tsv",
        "#Column\t_RAJ2000\t(F10.6)\tRight ascension (FK5, Equinox=J2000.0) computed by VizieR\n#Column\tRAh\t(I2)\tRight Ascension B1950\n"
        "_RAJ2000\t_DEJ2000\tRAh\tRAm\tRAs\tDE-\tDEd\tDEm\tDEs\tFlux\ndeg\tdeg\th\tmin\ts\t \tdeg\tarcmin\tarcsec\tJy\n"
        + "\t".join(["---"] * 10)
        + "\n80.1\t-16.2\t05\t18\t10.0\t-\t16\t15\t06\t0.12\n",
        151,
        None,
    ),
}
"""File name, content, frequency [MHz], name of the first source."""

H = "ra_deg,dec_deg,name,flux_mjy\n"
REFUSED = {
    "no frequency": ("list.csv", "ra,dec,flux_mjy\n80.1,-16.2,120\n", "at which frequency.*frequency_mhz"),
    "hours or degrees": ("l@1.4GHz.csv", "ra,dec,flux_mjy\n5.34,-16.2,120\n", "ra_h"),
    "a unit that is none": ("l@1.4GHz.csv", "ra [furlong],dec,flux_mjy\n5.34,-16.2,120\n", "furlong"),
    "a logarithm": ("l@1.4GHz.csv", "ra_deg,dec_deg,flux\ndeg,deg,[mJy]\n80,-16.2,2.1\n", r"\[mJy\]"),
    "two units": ("l@1.4GHz.csv", "ra_deg,dec_deg,flux_mjy\ndeg,deg,Jy\n80,-16.2,0.12\n", "is in Jy by the table"),
    "sexagesimal degrees": ("l.csv", "ra_deg,dec_deg,flux_mjy\n05:20:24,-16:12:00,120\n", "name it ra if"),
    "a declination in hours": ("l@1.4GHz.csv", "ra_deg,dec [h],flux_mjy\n80.1,1.2,120\n", "declination in hours"),
    "header only": ("l.csv", H, "no rows"),
    "nothing": ("l.csv", "", "no rows"),
    "comments only": ("l.csv", "# a\n# b\n", "no rows"),
    "no header": ("l.csv", "80.1,-16.2,A,120\n", "header"),
    "a short row": ("l.csv", H + "80.1,-16.2,A,120\n81,16,B\n", "line 3 has 3 fields"),
    "a long row": ("l.csv", H + "80.1,-16.2,A,B,120\n", "line 2 has 5 fields"),
    "a row that may be a comment": ("l.csv", "name,ra_deg,dec_deg,flux_mjy\n#1,80.1,-16.2,120\n2,81,16,30\n", "line 2 begins with '#'"),
    "a decimal comma": ("l.csv", "ra_deg;dec_deg;flux_mjy\n80,1;-16,2;120\n", "80,1"),
    "a flux of words": ("l.csv", H + "80.1,-16.2,A,bright\n", "numbers"),
    "no flux at all": ("l.csv", H + "80.1,-16.2,A,-1\n", "no row has a flux"),
    "60 minutes": ("l@1.4GHz.csv", "ra,dec,flux_mjy\n05:61:24,-16:12:00,120\n", "05:61:24"),
    "mixed angles": ("l@1.4GHz.csv", "ra,dec,flux_mjy\n05:20:24,-16:12:00,120\n80.1,-16:12:00,120\n", "80.1"),
    "two columns of one name": ("l.csv", "ra_deg,ra_deg,dec_deg,flux_mjy\n80.1,1,-16.2,120\n", "twice"),
    "the other sign": ("l.csv", "ra_deg,dec_deg,flux_mjy,alpha\n" + "".join(f"{i},-16.2,120,0.7\n" for i in range(12)), "S ~ nu"),
    "two surveys": ("tgss.csv", "NVSS,RAJ2000,DEJ2000,S1.4\nA,80.1,-16.2,120\n", "NVSS.*TGSS"),
    "two surveys in its name and names": ("tgss.csv", "name,ra_deg,dec_deg,flux_mjy\nNVSS J052024-161200,80.1,-16.2,120\n", "TGSS.*NVSS"),
    "two frequencies": ("l@943.5MHz.csv", "ra_deg,dec_deg,S1.4 [mJy]\n80.1,-16.2,120\n", "943.5 MHz"),
    "NRAO's listing": (
        "nvss.txt",
        '  RA(2000)  Dec(2000)   Dist(")  Flux  Major Minor  PA  Res P_Flux P_ang Field X_pix Y_pix\n'
        '   h  m    s    d  m   s   Ori    mJy    "     "    deg      mJy   deg\n'
        " 05 20 24.00 -16 12 00.0     5  120.0  18.4  17.1                        C0520M16  510.2 330.1\n"
        "        0.03          0.6    30    3.6\n",
        "VIII/65 from VizieR",
    ),
    "blanks in every name": ("l@1.4GHz.txt", "name ra_deg dec_deg flux_mjy\n3C 48 24.42 33.16 16000\n3C 49 25.4 13.9 2700\n", "5 fields"),
    "no sign": ("l@1.4GHz.csv", "RAh,RAm,RAs,DE-,DEd,DEm,DEs,flux_mjy\n5,20,24,x,16,12,0,120\n", "'x' is no sign"),
    "two signs": ("l@1.4GHz.csv", "RAh,RAm,RAs,DE-,DEd,DEm,DEs,flux_mjy\n5,20,24,,-16,12,0,120\n", "its degrees are negative"),
    "B1950": ("l@1.4GHz.csv", "# Equinox: B1950\nra,dec,flux_mjy\n05:18:10,-16:15:06,120\n", "another equinox .B1950"),
    "B1950, VizieR": (
        "l@151MHz.tsv",
        "#Column\tRAh\t(I2)\tRight Ascension B1950 (hours)\nRAh\tRAm\tRAs\tDE-\tDEd\tDEm\tDEs\tFlux\n"
        "h\tmin\ts\t \tdeg\tarcmin\tarcsec\tJy\n" + "\t".join(["---"] * 8) + "\n05\t18\t10.0\t-\t16\t15\t06\t0.12\n",
        "another equinox .Right Ascension B1950",
    ),
    "one name in two cases": ("l@1.4GHz.csv", "ra,RA,dec,flux_mjy\n30.1,80.1,-16.2,120\n", "twice"),
    "two fluxes": ("l.csv", "ra_deg,dec_deg,flux_mjy,flux_jy\n80.1,-16.2,120,5\n", "different fluxes"),
    "a frequency of its own": ("l.csv", "ra_deg,dec_deg,frequency_mhz,flux_150_mhz [mJy]\n80.1,-16.2,1400,120\n", "at 150 MHz by its name"),
    "offsets": ("l@1.4GHz.csv", "ra [arcsec],dec [arcsec],flux_mjy\n12.5,-3.2,120\n", "in arcsec"),
    "no position": ("l.csv", H + "80.1,-16.2,A,120\n,,B,3\n", "row 2: .*take it out"),
    "two tables": ("asu.tsv", NVSS_TSV + NVSS_TSV.removeprefix(VIZIER), "another table"),
    "not a table": ("l.fits", "SIMPLE  = nonsense", "cannot be read"),
    "a picture": ("l.png", "\x89PNG\r\n\x1a\n\0\0\0", "CSV, FITS"),
    "XML": ("l.vot", "<?xml version='1.0'?><VOTABLE><RESOURCE><TABLE>", "cannot be read"),
}
"""File name, content, and a part of the message."""
